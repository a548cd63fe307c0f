"""What happens around learning: asking, relabelling, filming, drawing."""
