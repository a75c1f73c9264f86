# mailbridge as a container image; docs/container.md tells how to build and run it.
#
# BASE may be any image with Python 3.11 or newer, its venv module, and glibc. Nothing of the build
# (pip, build tools) gets into the result.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
RUN python3 -m venv /build && python3 -m venv --without-pip /opt/mailbridge
WORKDIR /src
# What is pinned comes first: these layers stay as they are until a lock file changes.
COPY requirements/build.lock requirements/runtime.lock requirements/
RUN /build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes --no-deps \
        --requirement requirements/build.lock \
    && /build/bin/pip --python /opt/mailbridge/bin/python install --no-cache-dir \
        --disable-pip-version-check --require-hashes --no-deps --requirement requirements/runtime.lock
COPY pyproject.toml README.md LICENSE ./
COPY docs/man docs/man
COPY docs/completion docs/completion
COPY mailbridge mailbridge
RUN /build/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-deps \
        --no-build-isolation --wheel-dir /wheels . \
    && /build/bin/pip --python /opt/mailbridge/bin/python install --no-cache-dir \
        --disable-pip-version-check --no-index --no-deps /wheels/*.whl

FROM ${BASE}
LABEL org.opencontainers.image.title="mailbridge" \
      org.opencontainers.image.description="Office 365 mailboxes to webhooks; nothing is lost" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number of its own, the same in every build: files and volumes of the host are given to it.
RUN groupadd --gid 10001 mailbridge \
    && useradd --uid 10001 --gid mailbridge --no-create-home --home-dir /var/lib/mailbridge \
        --shell /usr/sbin/nologin mailbridge \
    && install --directory --owner=mailbridge --group=mailbridge --mode=0700 /var/lib/mailbridge \
    && install --directory --mode=0755 /etc/mailbridge
COPY --from=build /opt/mailbridge /opt/mailbridge
# The same names as under systemd: {credential: NAME} is a secret of Docker, Podman or Kubernetes.
ENV PATH=/opt/mailbridge/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MAILBRIDGE_CONFIG=/etc/mailbridge/mailbridge.yaml \
    STATE_DIRECTORY=/var/lib/mailbridge \
    RUNTIME_DIRECTORY=/var/lib/mailbridge \
    CREDENTIALS_DIRECTORY=/run/secrets
USER 10001:10001
WORKDIR /var/lib/mailbridge
VOLUME /var/lib/mailbridge
STOPSIGNAL SIGTERM
# Asks the daemon itself over its socket: its event loop and its database have to answer.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["/opt/mailbridge/bin/python", "-I", "-S", "-c", "import socket; s = socket.socket(socket.AF_UNIX); s.settimeout(8); s.connect('/var/lib/mailbridge/mailbridge.sock'); s.sendall(b'POST /status HTTP/1.0\\r\\nContent-Length: 0\\r\\n\\r\\n'); raise SystemExit(b' 200 ' not in s.recv(64))"]
# The daemon is the first process and starts none that it would leave behind: no init is needed.
ENTRYPOINT ["/opt/mailbridge/bin/mailbridge"]
CMD ["--log-format", "json", "run"]
