# clockd in a container: one volume for the users file, non-root, made for a read-only root file system.
#   docker run -d --name clockd -p 8787:8787 -p 127.0.0.1:9464:9464 -v clockd:/var/lib/clockd --read-only \
#     --cap-drop=all --security-opt=no-new-privileges localhost/clockd
ARG PYTHON=python:3.13-slim

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv --without-pip /opt/clockd && python -m venv --without-pip /opt/build
COPY requirements.lock requirements-build.lock ./
RUN pip --python /opt/clockd/bin/python install --no-compile --no-deps --require-hashes -r requirements.lock \
 && pip --python /opt/build/bin/python install --no-deps --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY clockd ./clockd
# Bytecode is made once, checked by content and not by time: layers are the same whenever they are built
RUN pip --python /opt/build/bin/python wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/clockd/bin/python install --no-compile --no-deps --no-index /wheels/*.whl \
 && /opt/clockd/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/clockd/lib \
 && install -d -m 0700 -o 8787 -g 8787 /volume

FROM ${PYTHON}
LABEL org.opencontainers.image.title="clockd" \
      org.opencontainers.image.description="Push the time to Perspective Broker clients, each at the rate it chose" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/clockd /opt/clockd
COPY --from=build --chown=8787:8787 /volume /var/lib/clockd
COPY deploy/container.toml /etc/clockd/clockd.toml
ENV PATH=/opt/clockd/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 8787:8787
WORKDIR /var/lib/clockd
VOLUME /var/lib/clockd
EXPOSE 8787 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["clockd", "health"]
ENTRYPOINT ["clockd"]
CMD ["serve", "--init", "--config", "/etc/clockd/clockd.toml"]
