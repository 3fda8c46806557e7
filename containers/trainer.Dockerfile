# The trainer on NVIDIA GPUs, with vLLM in an environment of its own beside it. Build it from the root of the repository:
#
#   docker build --file containers/trainer.Dockerfile --tag lzero-trainer .
#   docker run --gpus all --ipc host --volume "$PWD/data:/data" --env LZERO_POOL_TOKEN --workdir /data \
#     lzero-trainer train /opt/lzero/recipes/qa-qwen3-4b.toml model.path=Qwen3-4B 'repl.servers=["wss://pool:7321"]'
#
# REPLs run on pool servers (containers/pool.Dockerfile). `--ipc host` lets new weights pass through /dev/shm.
FROM nvidia/cuda:12.9.1-devel-ubuntu24.04

# Python 3.12, its headers and a C compiler, with which Triton and vLLM compile kernels. Versions follow the base image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --no-install-recommends --yes python3-dev python3-venv gcc \
    && rm -rf /var/lib/apt/lists/* \
    && (id ubuntu >/dev/null 2>&1 || useradd --uid 1000 --create-home ubuntu) \
    && install --directory --owner ubuntu /opt/lzero

USER 1000
WORKDIR /opt/lzero

# First, because it is large and seldom changes. lzero takes vLLM's own choice of torch as it is.
ARG VLLM_VERSION=0.33.0
RUN python3 -m venv .servers/vllm && .servers/vllm/bin/pip install --no-cache-dir "vllm==${VLLM_VERSION}"

COPY --chown=ubuntu pyproject.toml README.md LICENSE ./
COPY --chown=ubuntu locks/lzero.txt locks/
COPY --chown=ubuntu recipes recipes
COPY --chown=ubuntu src src

# The lock's torch is the one that lzero was tested with; on Linux the index has it with CUDA.
RUN python3 -m venv .venv && .venv/bin/pip install --no-cache-dir --constraint locks/lzero.txt ".[train,math,tracking,data]"
ENV PATH=/opt/lzero/.venv/bin:/opt/lzero/.servers/vllm/bin:$PATH

ENTRYPOINT ["lzero"]
