"""Where policies act: simulator adapters, rollouts, films, scripted experts and data collection."""
