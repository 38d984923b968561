"""From probe results to the state of each subject, and from those to problems. Pure."""
