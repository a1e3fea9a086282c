"""A whole continual run as a Ray job: ``ray job submit --working-dir . -- python jobs/run.py CONFIG [key=value ...]``.

Inside a job the cluster is joined; started by hand on a laptop, Ray is started here.
"""

import sys

from cmcl_ray.cli import main

if __name__ == "__main__":
    main(args=["run", *sys.argv[1:]], prog_name="jobs/run.py")
