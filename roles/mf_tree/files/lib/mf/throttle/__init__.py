"""The throttle: lease, marker, firewall, the fleet's agreement, and the transaction that changes them."""
