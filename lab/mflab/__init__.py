"""The lab: a whole fleet as system containers on one machine. See lab/README.md."""
