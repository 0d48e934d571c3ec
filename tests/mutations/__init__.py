"""Rules of the sandbox's runtime and network, each with a mutation that its test catches."""
