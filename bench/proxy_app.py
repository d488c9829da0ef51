"""The proxy alone, under the same server and loop as the gateway: `python bench/proxy_app.py UPSTREAM PORT`."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
import uvloop

from farebox.http.proxy import Proxy

if __name__ == "__main__":
    upstream, port = sys.argv[1:]
    config = uvicorn.Config(
        Proxy(upstream),
        port=int(port),
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve())
