# A pool server: sandboxed REPLs for runs on other machines, without a GPU and without torch. Build it from the root of the repository:
#
#   docker build --file containers/pool.Dockerfile --tag lzero-pool .
#   docker run --security-opt seccomp=unconfined --security-opt systempaths=unconfined --publish 7321:7321 \
#     --volume "$PWD/token:/run/token:ro" --volume "$PWD/tls:/run/tls:ro" \
#     lzero-pool --certificate /run/tls/server.pem --key /run/tls/server.key --token-file /run/token
#
# docs/sandbox.md says why the two options of security are needed, and what Kubernetes calls them.
FROM python:3.12-slim-bookworm

# The jail. Its version follows the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes bubblewrap \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1000 --create-home lzero \
    && install --directory --owner lzero /opt/lzero

USER 1000
WORKDIR /opt/lzero
COPY --chown=lzero pyproject.toml README.md LICENSE ./
COPY --chown=lzero locks/lzero.txt locks/
COPY --chown=lzero recipes recipes
COPY --chown=lzero src src

# The lock pins what lzero itself requires; packages of its extras are not installed.
RUN python -m venv .venv && .venv/bin/pip install --no-cache-dir --constraint locks/lzero.txt .
ENV PATH=/opt/lzero/.venv/bin:$PATH

# The kernel environment (IPython, numpy, pandas) is made here, so that the first REPL need not wait for it.
RUN python -c "from lzero.config import ReplConfig; from lzero.repl import environment; environment.build(ReplConfig())"

EXPOSE 7321
ENTRYPOINT ["lzero", "pool", "serve", "--host", "0.0.0.0"]
