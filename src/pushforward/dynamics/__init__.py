"""What diffusion, flow matching and continuous flows share: paths, targets, solvers."""
