"""One folder a host; the list of hosts."""
