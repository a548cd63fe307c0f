"""Reward models: plain modules that are fitted to feedback and give rewards. A method holds one."""
