"""The doors to the outside: what a release needs of the world, in few verbs each.

Every verb says whether it may be repeated and which errors it raises. Adapters map every client
error to `slipway.core.errors`; `slipway/retries.py` has the retries.
"""
