# syntax=docker/dockerfile:1
# aa-detection on NVIDIA GPUs, on top of an official PyTorch image.
#
#     docker build --tag aa-detection .
#     docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" --env HOME=/tmp \
#         --volume "$PWD:/work" aa-detection train --config-file sample/aa_retinanet_R18.yaml
#
# (after the same with draw-dataset sample in place of train ...). --ipc host: data workers hand over
# images in shared memory, of which a container has 64 MB.
#
# Without detectron2 the image runs the embedded engine. To have detectron2 in it, give pip's
# requirement for it, from https://detectron2.readthedocs.io/en/latest/tutorials/install.html:
#
#     docker build --tag aa-detection --build-arg \
#         DETECTRON2="git+https://github.com/facebookresearch/detectron2.git" .
#
# No image has been built of this file yet. It was linted, and outside a container a wheel was built
# and installed with the extra "embedded"; the base's tag and the step for detectron2 are untried.

# any tag with torch >= 2.8; -devel has the CUDA compiler that detectron2 is built with
ARG BASE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel

FROM ${BASE} AS wheel
COPY . /source
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /source

FROM ${BASE}
# OpenCV opens libGL and libglib; git and a C++ compiler are for detectron2
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        build-essential git libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=wheel /wheels /wheels
RUN python -m pip install --no-cache-dir "$(echo /wheels/*.whl)[embedded,convert,export,plots]"

ARG DETECTRON2=""
# there is no GPU while an image is built: compile for these
ARG TORCH_CUDA_ARCH_LIST="7.0;7.5;8.0;8.6;8.9;9.0"
# its build imports the torch that is there, its model zoo pkg_resources; ninja and wheel may be any
# hadolint ignore=DL3013
RUN if [ -n "${DETECTRON2}" ]; then \
        python -m pip install --no-cache-dir "setuptools<82" wheel ninja \
        && FORCE_CUDA=1 TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST}" \
            python -m pip install --no-cache-dir --no-build-isolation "${DETECTRON2}"; \
    fi

WORKDIR /work
ENTRYPOINT ["aa-detection"]
