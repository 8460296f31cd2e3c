# docker build -t clipkit .                           # PyTorch for CPUs
# docker build -t clipkit --build-arg TORCH=cu128 .   # PyTorch for CUDA 12.8
FROM python:3.13-slim
ARG TORCH=cpu
RUN pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/$TORCH
WORKDIR /clipkit
COPY pyproject.toml setup.py README.md LICENSE CITATION.cff ./
COPY clipkit clipkit
COPY prompts prompts
RUN pip install --no-cache-dir '.[openclip,ray,remote,timm]' && useradd --create-home clipkit
USER clipkit
WORKDIR /home/clipkit
ENTRYPOINT ["clipkit"]
