/* Runs a fuzzer over the files of the folders that are named on the command line; for
 * builds without libFuzzer. One process, no search. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path) {
  enum { MOST = 1 << 20 };
  FILE *file = fopen(path, "rbe");
  uint8_t *data = malloc(MOST);
  int ok = file && data;
  if (ok)
    LLVMFuzzerTestOneInput(data, fread(data, 1, MOST, file));
  else
    fprintf(stderr, "can't read %s\n", path);
  free(data);
  if (file)
    fclose(file);
  return ok;
}

/* Gives the number of files replayed, or -1. */
static int replay_folder(const char *folder) {
  DIR *dir = opendir(folder);
  int n = 0;
  if (!dir) {
    fprintf(stderr, "can't open %s\n", folder);
    return -1;
  }
  for (struct dirent *entry; n >= 0 && (entry = readdir(dir));) {
    char path[4096];
    if (entry->d_name[0] == '.')
      continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    n = replay_file(path) ? n + 1 : -1;
  }
  closedir(dir);
  return n;
}

int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    int n = replay_folder(argv[i]);
    if (n <= 0)
      return EXIT_FAILURE; /* an empty corpus is a mistake */
    printf("%s: %d files\n", argv[i], n);
  }
  return EXIT_SUCCESS;
}
