"""An additional plugin for qpsmtpd, with which faults make the real service misbehave."""

from __future__ import annotations

from chaos.scene import Host, Scene


def add_plugin(scene: Scene, perl: str, host: Host | None = None) -> None:
    """Have qpsmtpd load one more plugin, bound over the configuration: a restart of the host would end it."""
    config = "/mf/etc/qpsmtpd/plugins"
    plugin = "/usr/share/qpsmtpd/plugins/chaos"
    scene.undo(
        f"umount $(realpath {config}); rm -f {plugin} /run/chaos-plugins; systemctl restart qpsmtpd.service", host
    )
    where = host or scene.host
    where.run(f"cat > {plugin}; chmod 644 {plugin}", text=perl)
    where.run(
        f"{{ echo chaos; cat {config}; }} > /run/chaos-plugins; chmod 644 /run/chaos-plugins; "
        f"mount --bind /run/chaos-plugins $(realpath {config}); systemctl restart qpsmtpd.service"
    )
    scene.until("qpsmtpd listens again", lambda: bool(where.ask("ss -Hltn 'sport = :25'")[1].strip()), 30)
