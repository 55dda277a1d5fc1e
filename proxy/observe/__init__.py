"""What Millpond says of itself: logs and metric objects. Everything above may use it; it uses only `oci`."""
