"""Templates of the files that start a study on a cluster: Slurm, KubeRay, SkyPilot and `ray up`."""
