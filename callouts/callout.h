/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the two halves of nlmfo-callout know of each other: callout.c decides, records.c writes.
 */
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define MAX_TARGETS 256
#define MAX_FSIDS 64
#define MAX_FSID 64
#define DIRECTORY (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
#define ALNUM "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

/* One floating address, and where its clients go on record. */
struct target {
	const char *address, *directory, *name;
	bool async, frozen;
	const char *fsids[MAX_FSIDS];	/* those that this event tells us about */
	int n_fsids;
	pid_t worker;
	int error;		/* why the store did not take the record */
};

/* Names and files. Every int that is returned below is 0 or an errno. */
bool is_safe(const char *name);
ssize_t read_file(int fd, char *text, size_t limit);

/* The spool, on this node: quick, and fit for statd to wait for. */
extern int spool;
void refuse(const char *what, const char *name);
int spool_client(const struct target *t, const char *client);
bool is_stalled(const struct target *t);
void set_stalled(const struct target *t, int error);
void start_draining(const struct target *t);

/* The store, on shared storage: only children come here, because it may hang. */
int store_add(const struct target *t, const char *client);
int store_delete(const struct target *t, const char *client);
int store_learn(const struct target *t, const char *client);
