"""The status page: snapshot, what it shows, HTML, charts, metrics."""
