# docker build -t millpond .       another architecture, without BuildKit: --build-arg BASE=arm64v8/python:3.13-slim
# docker run --read-only --cap-drop ALL -p 5000:5000 -v millpond:/var/lib/millpond millpond
#
# The base is a Debian or Ubuntu with Python 3.11 or later and its venv module. The image itself begins at nothing:
# Python, Millpond, and the libraries that they load. No shell, no package manager, no pip.
# The admin port listens to the container itself; MILLPOND_ADMIN__LISTEN=0.0.0.0:5001 opens it.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
# Another index for pip; the hashes of the lock file hold for any.
ARG PIP_INDEX_URL
ARG VERSION
WORKDIR /src
COPY requirements.lock requirements-dev.lock deploy/image/pins.py ./
# Two environments: /build has the locked build backend and stays in this stage, /opt/millpond is what ships.
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/millpond \
    && python3 pins.py requirements-dev.lock hatchling packaging pathspec pluggy tomlkit trove-classifiers >backend.lock \
    && /build/bin/pip install --no-cache-dir --require-hashes --only-binary :all: -r backend.lock \
    && /build/bin/pip --python /opt/millpond/bin/python install --no-cache-dir --no-compile \
        --require-hashes --only-binary :all: -r requirements.lock
COPY . .
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels . \
    && /build/bin/pip --python /opt/millpond/bin/python install --no-deps --no-index wheels/millpond-*.whl \
    && python3 deploy/image/assemble.py /opt/millpond /image "${VERSION}" \
    && python3 deploy/image/sbom.py /image >/image/program/sbom.cdx.json \
    && cp deploy/image/healthy.py LICENSE /image/program/ \
    && mkdir /image/state

FROM scratch
ARG VERSION
ARG REVISION
ARG CREATED
LABEL org.opencontainers.image.title="millpond" \
      org.opencontainers.image.description="A self-hosted pull-through cache for container images" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
# The bytecode is there already; the root file system may be read-only.
ENV PATH=/opt/millpond/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt HOME=/var/lib/millpond
EXPOSE 5000 5001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-IS", "/opt/millpond/healthy.py"]
ENTRYPOINT ["millpond"]
CMD ["serve"]
# A number, so that Kubernetes can see that it is not root (runAsNonRoot).
USER 65532:65532
COPY --from=build --chown=65532:65532 /image/state /var/lib/millpond
WORKDIR /var/lib/millpond
VOLUME /var/lib/millpond
# From what changes least to what changes with each version.
COPY --from=build /image/system /
COPY --from=build /image/libraries /opt/millpond
COPY --from=build /image/program /opt/millpond
