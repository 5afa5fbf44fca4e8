# Build in the root folder of the project:  docker build -t ollama-throughput-exporter:TAG .
# The base image can be any with a supported Python and pip. Both stages must use the same one, because the virtual
# environment refers to its interpreter.
ARG BASE_IMAGE=python:3.13-slim-trixie

FROM ${BASE_IMAGE} AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# The virtual environment has no pip: packages are installed from outside.
RUN python -m venv --without-pip /opt/exporter
COPY requirements/build.txt requirements/run.txt requirements/
RUN python -m pip --python /opt/exporter/bin/python install --require-hashes --only-binary :all: -r requirements/run.txt \
    && python -m pip install --require-hashes --only-binary :all: -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY exporter exporter
RUN python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir dist . \
    && python -m pip --python /opt/exporter/bin/python install --no-deps --no-index dist/*.whl

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="ollama-throughput-exporter" \
      org.opencontainers.image.description="Prometheus exporter that measures how fast models on Ollama really generate, per model and GPU" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.vendor="ollama-throughput-exporter" \
      org.opencontainers.image.authors="The ollama-throughput-exporter authors"
# The pip of the base image is not needed in a running container either.
RUN python -m pip uninstall --yes --root-user-action=ignore pip
COPY --from=build /opt/exporter /opt/exporter
# With the capability `utility`, the NVIDIA container runtime mounts NVML and the device files that reading a GPU needs.
ENV PATH=/opt/exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    NVIDIA_DRIVER_CAPABILITIES=utility
USER 65532:65532
EXPOSE 10434
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s --retries=3 \
    CMD ["ollama-throughput-exporter", "healthcheck"]
ENTRYPOINT ["ollama-throughput-exporter"]
