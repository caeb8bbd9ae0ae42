# cytoloc serve on CPUs: docker build --tag cytoloc .
FROM python:3.11-slim AS build
# PyTorch without CUDA. Another index: --build-arg TORCH_INDEX=https://pypi.org/simple
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY src src
RUN python -m venv /opt/cytoloc \
    && /opt/cytoloc/bin/pip install --no-cache-dir torch torchvision --index-url "$TORCH_INDEX" \
    && /opt/cytoloc/bin/pip install --no-cache-dir '.[nets,engines,serve,formats,duplicates]'

FROM python:3.11-slim
RUN useradd --create-home --uid 10001 cytoloc
COPY --from=build /opt/cytoloc /opt/cytoloc
ENV PATH=/opt/cytoloc/bin:$PATH PYTHONUNBUFFERED=1
USER cytoloc
WORKDIR /home/cytoloc
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["cytoloc"]
# Other machines can connect, so CYTOLOC_TOKEN must be set.
CMD ["serve", "builtin", "--host", "0.0.0.0"]
