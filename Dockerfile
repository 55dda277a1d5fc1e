# docker build -t millpond .        another base: --build-arg BASE=registry.example.com/python:3.13-slim
# docker run --read-only -p 5000:5000 -v millpond:/var/lib/millpond millpond
#
# The admin port listens to the container itself; MILLPOND_ADMIN__LISTEN=0.0.0.0:5001 opens it.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
# Two environments: /build has the locked build backend and stays in this stage, /opt/millpond is what ships.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/millpond
COPY requirements.lock requirements-dev.lock ./
RUN /build/bin/pip install --require-hashes --only-binary :all: -r requirements-dev.lock
RUN /build/bin/pip --python /opt/millpond/bin/python install --require-hashes --only-binary :all: -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY proxy proxy
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/millpond/bin/python install --no-deps --no-index /wheels/millpond-*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="millpond" \
      org.opencontainers.image.description="A self-hosted pull-through cache for container images" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
RUN install -d -o 65532 -g 65532 -m 0750 /var/lib/millpond
COPY --from=build /opt/millpond /opt/millpond
# The bytecode was compiled by the installation above; the root file system may be read-only.
ENV PATH=/opt/millpond/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/var/lib/millpond
USER 65532:65532
WORKDIR /var/lib/millpond
VOLUME /var/lib/millpond
EXPOSE 5000 5001
# Without urllib, which would ask a proxy of the environment for 127.0.0.1.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 5001, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["millpond"]
CMD ["serve"]
