"""The status page: snapshot, views, HTML, charts, metrics."""
