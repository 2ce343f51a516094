"""A stand-in for the places that weights come from: a real HTTP server with a fault injector. See docs/downloads.md.

with Hub() as hub:
    hub.add("cria/model", {"config.json": b"{}", "model.bin": Generated(40_000_000)})
    hub.fault("cut", after=25_000_000, path="*model.bin*")        # once; times=0: always; first=2: the second time
    ...                                                           # a client that takes hub.url for its endpoint
    assert hub.sent("*model.bin*") < 41_000_000 and not any(entry.token for entry in hub.log)
"""
