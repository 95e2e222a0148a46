"""The loop: a schedule and a denoiser as a plan, run on tensors."""
