# Four images from one file: `gateway`, `worker`, `training`, and `classic`, the genuine bert-serving-server.
#
#     docker build --target gateway --tag danmaku-embedding-gateway .
#     docker run --rm --read-only --tmpfs /tmp --publish 127.0.0.1:8000:8000 --env DANMAKU_ALLOW_ANONYMOUS=true \
#       danmaku-embedding-gateway
#
# A virtual environment is made in one stage and copied, without pip, into another, which runs as user 10001 and writes to
# /tmp and /var/lib/danmaku only. Packages are of the versions that constraints.txt names, and come as wheels: there is no
# compiler in either stage. One release of Python for all, since TensorFlow 2.15, of the genuine server, has no newer one.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ENV PATH=/opt/danmaku/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_PREFER_BINARY=1
WORKDIR /build
RUN python3 -m venv /opt/danmaku
COPY pyproject.toml README.md constraints.txt constraints-classic.txt ./
COPY client client
COPY service service
COPY training training

FROM build AS build-service
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./client '.[otel]' && pip uninstall --quiet --yes pip setuptools

FROM build AS build-training
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt ./client '.[training,parquet]' && pip uninstall --quiet --yes pip

FROM build AS build-classic
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints-classic.txt ./client '.[classic]' && pip uninstall --quiet --yes pip

FROM ${PYTHON} AS runtime
ARG REVISION=
LABEL org.opencontainers.image.title="danmaku embedding" \
      org.opencontainers.image.description="Turns danmaku into vectors, with a BERT that has read them" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
# /tmp is the home of a user that has none: what libraries cache goes where writing is allowed.
ENV PATH=/opt/danmaku/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN install --directory --owner=10001 --group=10001 /var/lib/danmaku /var/lib/danmaku/collections
WORKDIR /app
USER 10001:10001
ENTRYPOINT ["danmaku"]

FROM runtime AS gateway
COPY models models
COPY --from=build-service /opt/danmaku /opt/danmaku
# Reached from outside its container by nature, so it wants API keys: DANMAKU_API_KEY_HASHES, or DANMAKU_ALLOW_ANONYMOUS.
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
