"""One file or folder for each command under src/."""
