"""What carries packets: `memory`, `spool`, `rabbitmq`. One port, one conformance suite."""
