# Slim base: torch's wheels carry their own CUDA libraries, so the host needs nothing but the NVIDIA driver and
# container toolkit (docker run --gpus all ...), and a machine without a GPU needs neither.
#   docker build -t lightning-pbrl .
#   docker build -t lightning-pbrl --build-arg EXTRAS=dmc,wandb --build-arg TORCH_INDEX=<CPU index of pytorch.org/get-started> .
#   docker run --rm lightning-pbrl list
#   docker run --rm -v "$PWD/runs:/experiments/runs" -v "$PWD/data:/experiments/data" lightning-pbrl run conf/experiment/demo.yaml
# It runs as user 1000, who must be able to write the two folders.
# Python 3.12 is the newest for which dm_control (extra dmc) has wheels.
FROM python:3.12-slim

# EGL renders without a display; g++ lets torch.compile work on CPU. Debian drops old versions, so none is named.
# hadolint ignore=DL3008
RUN apt-get update -qq \
    && apt-get install -qq -y --no-install-recommends g++ wget libegl1 libgl1 libgles2 libegl-mesa0 libgl1-mesa-dri \
    && rm -rf /var/lib/apt/lists/*

ENV MUJOCO_GL=egl \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1

# torch first and alone: the largest layer survives every change of our code.
ARG TORCH_INDEX=""
COPY constraints.txt /src/constraints.txt
RUN pip install -c /src/constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch

ARG EXTRAS="dmc,web"
COPY . /src
RUN pip install -c /src/constraints.txt "/src${EXTRAS:+[$EXTRAS]}"

RUN useradd --create-home --uid 1000 pbrl && install -d -o pbrl -g pbrl /experiments
USER 1000
WORKDIR /experiments
COPY --chown=pbrl conf /experiments/conf

ENTRYPOINT ["lightning-pbrl"]
CMD ["--help"]
