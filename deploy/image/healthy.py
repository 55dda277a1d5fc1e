#!/usr/bin/env python3
"""The image's health check: whether the admin port of this container answers. Started anew each time, so it is quick:
the standard library only, and none of the program."""

import http.client
import os
import sys

# MILLPOND_ADMIN__LISTEN is read as the program reads it; a port that only the configuration file names is not seen.
port = int((os.environ.get("MILLPOND_ADMIN__LISTEN") or ":5001").rpartition(":")[2])
# Not urllib, which would ask a proxy of the environment for 127.0.0.1.
connection = http.client.HTTPConnection("127.0.0.1", port, timeout=4)
connection.request("GET", "/healthz")
sys.exit(connection.getresponse().status != 200)
