# Training and rollouts on NVIDIA GPUs, with the versions that requirements/gpu.lock names. Not built on a GPU machine yet.
#
#   docker build -t invert-rl .
#   docker run --gpus all --shm-size 16g -it invert-rl invert-rl doctor
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04

ENV DEBIAN_FRONTEND=noninteractive PIP_NO_CACHE_DIR=1 PIP_BREAK_SYSTEM_PACKAGES=1 PYTHONUNBUFFERED=1
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ git python3-dev python3-pip && apt-get clean

WORKDIR invert-rl
COPY requirements/gpu.lock requirements/gpu.lock
RUN pip install -r requirements/gpu.lock
COPY . .
RUN pip install --no-deps . && invert-rl --version
