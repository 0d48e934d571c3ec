"""Faults on purpose: proxies of ours between the sandbox's servers and whoever calls them.

One process holds the ports that flows, people and containers dial (S3, registry, MLflow, API
server) and passes bytes on to the servers' inner ports. The pods of a faulted service get doors of
their own at 127.101.a.b, and the discovery relay sends the gateway there. Without a fault every
door is a plain pump.
"""
