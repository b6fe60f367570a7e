"""The witness as a server: C2SP tlog-witness over HTTP. What it decides is `core.witness`, what it keeps `store`."""
