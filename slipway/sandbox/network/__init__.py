"""The sandbox's loopback network: one pure mapping, an egress proxy, a discovery relay.

The API shows pods at 100.100.a.b (EndpointSlices refuse loopback addresses); their processes listen
at 127.100.a.b. Nothing ever dials 100.100.a.b: what reaches a pod goes through this package.
"""
