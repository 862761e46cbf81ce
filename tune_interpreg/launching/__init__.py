"""Templates of the files that start a study on a cluster: Slurm, KubeRay and `ray up`."""
