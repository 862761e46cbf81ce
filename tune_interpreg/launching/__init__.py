"""Files that start a study on clusters: an sbatch script, a RayJob, a cluster of `ray up`; their templates lie here."""
