# Five images from one file: `gateway`, `worker`, `worker-gpu` for NVIDIA GPUs, `training`, and `classic`, the genuine
# bert-serving-server.
#
#     make images TAG=0.2.0        or, for one of them:
#     docker build --target gateway --tag danmaku-embedding-gateway:0.2.0 .
#     docker run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:8000:8000 --env DANMAKU_ALLOW_ANONYMOUS=true \
#       danmaku-embedding-gateway:0.2.0
#
# One stage builds a virtual environment; another copies it without pip, runs as user 10001, and writes only to /tmp and
# /var/lib/danmaku. locks/ has the versions and hashes of all packages (`make locks`), and all of them are wheels: neither stage has a compiler.
# Models are copied to /app/models and not into the package, so an image has only one copy. All images use the same release of
# Python, the newest that the genuine server's TensorFlow 2.15 supports.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV PATH=/opt/danmaku/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PREFER_BINARY=1
WORKDIR /build
RUN python3 -m venv /opt/danmaku
COPY pyproject.toml LICENSE README.md constraints-classic.txt ./
COPY locks locks
COPY client client
COPY service service
COPY training training
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/build && /opt/build/bin/pip install --require-hashes --requirement locks/build.txt && \
    /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir wheels ./client .

FROM build AS build-service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --requirement locks/service.txt && pip install --no-deps wheels/*.whl && \
    pip uninstall --quiet --yes pip setuptools

FROM build AS build-gpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --requirement locks/gpu.txt && pip install --no-deps wheels/*.whl && \
    pip uninstall --quiet --yes pip setuptools

FROM build AS build-training
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes --requirement locks/training.txt && pip install --no-deps wheels/*.whl && \
    pip uninstall --quiet --yes pip

FROM build AS build-classic
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints-classic.txt ./client '.[classic]' && pip uninstall --quiet --yes pip

FROM ${PYTHON} AS runtime
ARG REVISION=
LABEL org.opencontainers.image.title="danmaku embedding" \
      org.opencontainers.image.description="Turns danmaku into vectors with a BERT trained on danmaku" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.revision="${REVISION}"
# The user has no home directory: libraries write their caches to /tmp.
ENV PATH=/opt/danmaku/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN install --directory --owner=10001 --group=10001 /var/lib/danmaku /var/lib/danmaku/collections
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["danmaku"]

FROM runtime AS gateway
COPY models models
COPY --from=build-service /opt/danmaku /opt/danmaku
# It listens on all addresses, so it requires API keys: set DANMAKU_API_KEY_HASHES or DANMAKU_ALLOW_ANONYMOUS.
ENV DANMAKU_HOST=0.0.0.0 DANMAKU_COLLECTIONS=sqlite:///var/lib/danmaku/collections
VOLUME /var/lib/danmaku/collections
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["danmaku", "check", "http://127.0.0.1:8000"]
CMD ["serve"]

FROM runtime AS worker
COPY models models
COPY --from=build-service /opt/danmaku /opt/danmaku
EXPOSE 5555 5556
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["danmaku", "check", "bert://127.0.0.1:5555:5556"]
CMD ["worker", "-model_dir", "models/danmaku-bert-mini", "-max_seq_len", "NONE", "-bind", "*"]

FROM runtime AS worker-gpu
COPY models models
COPY --from=build-gpu /opt/danmaku /opt/danmaku
# For NVIDIA's container toolkit, which adds the driver: docker run --gpus all.
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
EXPOSE 5555 5556
HEALTHCHECK --interval=30s --timeout=5s --start-period=180s CMD ["danmaku", "check", "bert://127.0.0.1:5555:5556"]
CMD ["worker", "-device", "cuda", "-model_dir", "models/danmaku-bert-mini", "-max_seq_len", "NONE", "-bind", "*"]

FROM runtime AS training
COPY models models
COPY training/configs training/configs
COPY --from=build-training /opt/danmaku /opt/danmaku
ENTRYPOINT ["danmaku-train"]
CMD ["--help"]

FROM runtime AS classic
COPY models models
COPY --from=build-classic /opt/danmaku /opt/danmaku
EXPOSE 5555 5556
HEALTHCHECK --interval=30s --timeout=10s --start-period=180s CMD ["danmaku", "check", "bert://127.0.0.1:5555:5556"]
CMD ["worker", "--classic", "-model_dir", "models/danmaku-bert-mini", "-ckpt_name", "model.ckpt-3600", "-cpu"]
