/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files of nlmfo-callout. nlmfo/records/layout.py draws them all.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "callout.h"

#define MAX_NAME 255
#define MAX_RECORD 4096
#define MAX_REFUSED (64 << 10)

/* lockd's address, program, version and procedure, and no cookie: lockd's would give away a kernel pointer. */
#define RECORD "0100007f 000186b5 00000003 00000010 00000000000000000000000000000000 "

#define NEW_FILE (O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC)
#define ANY_FILE (O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)	/* for what may be a trap: a link, a fifo, a device */

int spool = -1;

/* The rule of layout.py: host names and addresses, nothing that means something to a path or a shell. */
bool is_safe(const char *name)
{
	return *name && strchr(ALNUM "_:", *name) && strspn(name, ALNUM "_:.%-") == strlen(name) &&
	       strlen(name) <= MAX_NAME;
}

static int write_all(int fd, const char *text, size_t size)
{
	ssize_t written = write(fd, text, size);

	return written < 0 ? errno : (size_t)written < size ? ENOSPC : 0;
}

/* What a regular file holds, ended with a NUL, and its size; -1 if it is bigger than that or anything else. */
ssize_t read_file(int fd, char *text, size_t limit)
{
	struct stat found;
	ssize_t size = -1;

	if (!fstat(fd, &found) && S_ISREG(found.st_mode) && found.st_size <= (off_t)limit)
		size = pread(fd, text, limit, 0);
	text[size < 0 ? 0 : size] = '\0';
	return size;
}

/* ---- the spool, on this node ---- */

static int open_spool(const struct target *t)
{
	char name[MAX_NAME + 1];

	snprintf(name, sizeof(name), "sm_%s", t->address);
	mkdirat(spool, name, 0700);
	return openat(spool, name, DIRECTORY);
}

/* For a client whose name cannot be a file's, or for whom there is no room: say so, within bounds. */
void refuse(const char *what, const char *name)
{
	char line[MAX_NAME + 40];
	int start = snprintf(line, sizeof(line), "%.16s ", what);
	int size = start + snprintf(line + start, sizeof(line) - start, "%.*s\n", MAX_NAME, name);
	int fd = openat(spool, "refused", O_WRONLY | O_CREAT | O_APPEND | ANY_FILE, 0640);
	struct stat found;

	for (int i = start; i < size - 1; i++)
		if (!strchr(ALNUM "_:.%-", line[i]))
			line[i] = '?';
	if (!fstat(fd, &found) && S_ISREG(found.st_mode) && found.st_size < MAX_REFUSED)
		write_all(fd, line, size);
	close(fd);
}

int spool_client(const struct target *t, const char *client)
{
	char name[64], line[MAX_RECORD];
	int size = snprintf(line, sizeof(line), RECORD "%s %s\n", client, t->name);
	int dir = open_spool(t), fd, error, number = 0;

	do {
		snprintf(name, sizeof(name), "add.%d.%d", (int)getpid(), number++);
		fd = openat(dir, name, NEW_FILE, 0640);
	} while (fd < 0 && errno == EEXIST && number < 1000);
	error = fd < 0 ? errno : write_all(fd, line, size);
	close(fd);
	close(dir);
	return error;
}

bool is_stalled(const struct target *t)
{
	char name[MAX_NAME + 1];

	snprintf(name, sizeof(name), "sm_%s/stalled", t->address);
	return !faccessat(spool, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

void set_stalled(const struct target *t, int error)
{
	int dir = open_spool(t), fd = openat(dir, "stalled", NEW_FILE, 0640);

	dprintf(fd, "%s: %s\n", t->directory, error == ETIMEDOUT ? "does not answer" : strerror(error));
	close(fd);
	close(dir);
}

/* ---- the store: only children come here, because it may hang ---- */

static int open_store(const struct target *t, const char *name)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", t->directory, name);
	return open(path, DIRECTORY);
}

/* Put a record in the place of a different one, or of something that is not a record at all. */
static int replace(int dir, const char *name, const char *line, size_t size)
{
	char temporary[32];
	int fd, error;

	snprintf(temporary, sizeof(temporary), ".new.%d", (int)getpid());
	unlinkat(dir, temporary, 0);
	fd = openat(dir, temporary, NEW_FILE, 0640);
	error = write_all(fd, line, size);
	if (!error && (fsync(fd) || renameat(dir, temporary, dir, name) || fsync(dir)))
		error = errno;
	unlinkat(dir, temporary, 0);
	return error;
}

/*
 * The file is created under its final name: one fsync less than with a temporary one, and a crash leaves at
 * worst a short file, which readers count as well. The directory is synced for the file systems on which
 * fsync of a new file does not cover its name; where it does (ext4, xfs), that costs next to nothing.
 * On a full file system a name often finds a place where its line finds none. It is made durable all the same,
 * if need be by the next who comes, where its maker was killed before that.
 */
static int record(int dir, const char *name, const char *line, size_t size)
{
	char old[MAX_RECORD + 1];
	int fd, error;

	if (dir < 0)
		return errno;
	fd = openat(dir, name, NEW_FILE, 0640);
	if (fd >= 0) {
		error = write_all(fd, line, size);
		return fsync(fd) || fsync(dir) ? errno : error;
	}
	if (errno != EEXIST)
		return errno;
	fd = openat(dir, name, O_RDONLY | ANY_FILE);
	if (read_file(fd, old, MAX_RECORD) != (ssize_t)size || memcmp(old, line, size)) {
		error = replace(dir, name, line, size);
		if (error) {
			fsync(fd);
			fsync(dir);
		}
		return error;
	}
	/* Whoever wrote this may still be on the way to its fsync. */
	return fsync(fd) || fsync(dir) ? errno : 0;
}

/*
 * Does the store take a change? Where it hangs, this hangs. Asked before each deletion, so that a child that
 * was given up (and killed) dies here, and never deletes a record that was made in the meantime.
 */
static int probe(int dir)
{
	char name[32];
	int fd;

	if (dir < 0)
		return errno;
	snprintf(name, sizeof(name), ".probe.%d", (int)getpid());
	/* Not NEW_FILE: one who was killed here, and had our number, may have left it behind. */
	fd = openat(dir, name, O_WRONLY | O_CREAT | ANY_FILE, 0600);
	return fd < 0 || close(fd) || unlinkat(dir, name, 0) ? errno : 0;
}

int store_delete(const struct target *t, const char *client)
{
	int dir = open_store(t, "sm"), error = probe(dir);

	return error || !unlinkat(dir, client, 0) || errno == ENOENT ? error : errno;
}

int store_learn(const struct target *t, const char *client)
{
	int fd = openat(open_store(t, "fsids"), client, O_RDWR | O_CREAT | O_APPEND | ANY_FILE, 0640);
	char known[MAX_RECORD + 2] = "\n", line[80];

	if (read_file(fd, known + 1, MAX_RECORD) < 0)
		return errno;
	for (int i = 0; i < t->n_fsids; i++) {
		/* The leading newline ends a line that a crash cut off. */
		int size = snprintf(line, sizeof(line), "\n%.64s\n", t->fsids[i]);

		if (!strstr(known, line) && write_all(fd, line, size))
			return errno;
	}
	return 0;
}

int store_add(const struct target *t, const char *client)
{
	char line[MAX_RECORD];
	int size = snprintf(line, sizeof(line), RECORD "%s %s\n", client, t->name);
	int error = record(open_store(t, "sm"), client, line, size);

	return error || !t->n_fsids ? error : store_learn(t, client);
}

/* ---- moving the spool to the store, in a process that nobody waits for ---- */

static int lock(int dir, const char *name, int how)
{
	int fd = openat(dir, name, O_RDWR | O_CREAT | ANY_FILE, 0640);

	return !flock(fd, how) ? fd : -1;
}

/* What does not end with a newline is still being written; neither that nor a trap is the store's fault. */
static int move_entry(int dir, const char *entry, int store)
{
	char line[MAX_RECORD + 1], name[MAX_NAME + 2] = "";
	int fd = openat(dir, entry, O_RDONLY | ANY_FILE), error;
	ssize_t size = read_file(fd, line, MAX_RECORD);

	close(fd);
	if (size <= 0 || line[size - 1] != '\n' || sscanf(line, RECORD "%256s", name) != 1 || !is_safe(name))
		return 0;
	error = record(store, name, line, size);
	if (!error)
		unlinkat(dir, entry, 0);
	return error == EISDIR ? 0 : error;
}

/*
 * One process moves, at most one more waits for its turn. Whoever finds both places taken may leave: the one
 * that waits has yet to look at the spool, so it will see what we have put there. Every entry is tried: where there
 * is no room for one, the next may get at least its name there.
 */
static void drain(const struct target *t)
{
	int dir = open_spool(t), next = lock(dir, "waiting", LOCK_EX | LOCK_NB), store, error, failed;
	struct dirent *entry;
	DIR *entries;

	if (next < 0 || lock(dir, "draining", LOCK_EX) < 0)
		return;
	close(next);
	store = open_store(t, "sm");
	failed = probe(store);
	entries = failed ? NULL : fdopendir(dup(dir));
	while (entries && (entry = readdir(entries)))
		if (!strncmp(entry->d_name, "add.", 4) && (error = move_entry(dir, entry->d_name, store)))
			failed = error;
	if (failed)
		set_stalled(t, failed);
	else
		unlinkat(dir, "stalled", 0);
}

void start_draining(const struct target *t)
{
	if (fork() == 0) {
		setsid();
		drain(t);
		_exit(0);
	}
}
