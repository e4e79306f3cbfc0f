# cdkd with git, which DVC needs. Built for the CPU; with `--build-arg ACCELERATOR=cuda` for NVIDIA's GPUs:
#   docker build -t cdkd .
#   docker run --rm -v "$PWD:/project" cdkd dvc repro
ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG ACCELERATOR=cpu
ARG UV_VERSION=0.13.8
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
ENV DVC_NO_ANALYTICS=1 DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true

# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends git && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir "uv==${UV_VERSION}"

WORKDIR /opt/cdkd
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY cdkd ./cdkd
# The locked torch is the one for CUDA. For the CPU uv chooses another build of torch, and the lock gives the other versions.
RUN if [ "$ACCELERATOR" = cuda ]; then \
        uv pip install --system --no-cache --require-hashes --requirement requirements.lock \
        && uv pip install --system --no-cache --no-deps . ; \
    elif [ "$ACCELERATOR" = cpu ]; then \
        grep -E '^[a-z0-9]' requirements.lock | grep -vE '^(torch|torchvision|triton|nvidia-|cuda-)' | sed 's/ \\$//' > others.txt \
        && uv pip install --system --no-cache --torch-backend cpu --constraint others.txt . ; \
    else echo "ACCELERATOR=$ACCELERATOR: expected cpu or cuda" >&2; exit 2; fi

RUN useradd --create-home --uid 1000 cdkd && mkdir /project && chown 1000 /project
USER 1000
WORKDIR /project
CMD ["cdkd", "--help"]
