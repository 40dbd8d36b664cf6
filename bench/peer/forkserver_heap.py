"""What the fork server preloads to be as large as the environment says: small tuples."""
import os

big = [(i, i) for i in range(int(os.environ.get("BENCH_HEAP_MIB", "0")) * 1048576 // 128)]
