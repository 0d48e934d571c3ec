"""A service that is live without Slipway, taken over: what is there, what fits, what changes.

`live` finds its objects, `fitness` says what is in the way, `routes` reads hand-written routes,
`changes` builds what is written, `originals` keeps what was there.
"""
