"""What action plugins share. They run on the controller."""
