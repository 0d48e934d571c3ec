"""Real parts on one machine: the ground the demo and the tests stand on."""
