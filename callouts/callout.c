/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * nlmfo-callout: what rpc.statd (-H) and rpc.mountd (-H) run when a client comes or goes.
 *
 *   add-client | del-client  MON_NAME MY_NAME         rpc.statd
 *   add-client | del-client  SERVER CLIENT [FSID]     the order of the 2006 proposal
 *   mount                    CLIENT PATH COUNT        rpc.mountd
 *   anything else                                     silence
 *
 * rpc.statd waits for us in its only thread, without a time limit, and lockd waits behind it. So: no name
 * look-ups, no network, no waiting for locks, and every touch of shared storage happens in a child that we
 * stop waiting for after `patience` seconds, because a process that hangs in a file system cannot be killed.
 * Nobody looks at our exit status; what goes wrong is told in the spool (records.c). Our configuration is drawn
 * in nlmfo/records/callout.py.
 *
 * Two rules keep a record from being lost, whatever is interrupted:
 *  - Adding may happen late, twice, or be done by somebody else. What cannot be added now is spooled.
 *  - Deleting is never late: not spooled, not retried, not even tried while the store is stalled.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "callout.h"

#define CONFIG "/run/nlmfo/callout.conf"
#define MAX_CONFIG (1 << 20)

typedef int work(const struct target *, const char *);

static struct target targets[MAX_TARGETS];
static int n_targets, patience = 5;
static const char *spool_path = "/run/nlmfo/spool", *node = "", *client;

/* ---- what statd waits for ---- */

/* One child for each address: a store that hangs keeps no other from getting its record. */
static int start(struct target *t, work *work, int results)
{
	unsigned char result[2] = { t - targets };

	t->error = ETIMEDOUT;
	t->worker = fork();
	if (t->worker < 0)
		t->error = errno;
	if (t->worker != 0)
		return t->worker > 0;
	result[1] = work(t, client);
	_exit(write(results, result, sizeof(result)) != sizeof(result));
}

static long milliseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Hear from this many children, within `patience` for all of them together; who is late is given up. */
static void finish(int results, int pending)
{
	struct pollfd ready = { .fd = results, .events = POLLIN };
	long end = milliseconds() + patience * 1000, left;
	unsigned char result[2];

	while (pending-- && (left = end - milliseconds()) > 0 && poll(&ready, 1, left) > 0 &&
	       read(results, result, sizeof(result)) == sizeof(result)) {
		targets[result[0]].error = result[1];
		targets[result[0]].worker = 0;
	}
	for (struct target *t = targets; t < targets + n_targets; t++)
		if (t->worker > 0)
			kill(t->worker, SIGKILL);
}

static bool is_address(const char *name)
{
	return strchr(name, ':') || (strchr(name, '.') && strspn(name, "0123456789.") == strlen(name));
}

static bool stands_for(const struct target *t, const char *server)
{
	return !strcmp(t->address, server) || !is_address(server) || !strcmp(server, node) ||
	       !strcmp(server, "127.0.0.1") || !strcmp(server, "::1");
}

/*
 * In mode async, and while the store is stalled, a new client goes to the spool. Otherwise statd waits for the
 * store, and the spool is for what the store does not take. Where the one fails, the other is tried.
 */
static void handle(const char *event, const char *server)
{
	bool adding = !strcmp(event, "add-client"), deleting = !strcmp(event, "del-client");
	int results[2] = { -1, -1 }, no_pipe = pipe2(results, O_CLOEXEC), pending = 0;

	for (struct target *t = targets; t < targets + n_targets; t++) {
		bool stalled = no_pipe || is_stalled(t);

		if (!stands_for(t, server))
			continue;
		if (adding && (t->async || stalled) && !spool_client(t, client))
			start_draining(t);
		else if (adding)
			pending += start(t, store_add, results[1]);
		else if (deleting && !t->frozen && !stalled)
			pending += start(t, store_delete, results[1]);
		else if (!deleting && t->n_fsids && !stalled)
			pending += start(t, store_learn, results[1]);
	}
	finish(results[0], pending);
	for (struct target *t = targets; t < targets + n_targets; t++) {
		if (!t->error)
			continue;
		set_stalled(t, t->error);
		if (adding && spool_client(t, client))
			refuse("no-place-for", client);
		start_draining(t);
	}
}

/* ---- what we are told ---- */

static bool lies_below(const char *path, const char *top)
{
	size_t size = strlen(top);

	return !strncmp(path, top, size) && (!path[size] || path[size] == '/' || !strcmp(top, "/"));
}

static void learn(struct target *t, const char *fsid)
{
	size_t size = strlen(fsid);

	if (t->n_fsids < MAX_FSIDS && size && size <= MAX_FSID && strspn(fsid, ALNUM "-") == size)
		t->fsids[t->n_fsids++] = fsid;
}

/* One line of the configuration. The path that a client mounted, if any, selects the fsids that we learn. */
static void configure(char *key, const char *mounted)
{
	struct target *t = n_targets ? &targets[n_targets - 1] : NULL;
	char *value = strchrnul(key, ' '), *path;

	if (*value)
		*value++ = '\0';
	if (!strcmp(key, "spool"))
		spool_path = value;
	else if (!strcmp(key, "patience"))
		patience = atoi(value);
	else if (!strcmp(key, "node"))
		node = value;
	else if (!strcmp(key, "address"))
		targets[n_targets++] = (struct target){ .address = value, .directory = "", .name = value };
	else if (!t)
		return;
	else if (!strcmp(key, "directory"))
		t->directory = value;
	else if (!strcmp(key, "name"))
		t->name = value;
	else if (!strcmp(key, "mode"))
		t->async = !strcmp(value, "async");
	else if (!strcmp(key, "frozen"))
		t->frozen = !strcmp(value, "yes");
	else if (!strcmp(key, "fsid") && mounted && (path = strchr(value, ' '))) {
		*path++ = '\0';
		if (lies_below(mounted, path))
			learn(t, value);
	}
}

static bool read_config(const char *mounted)
{
	static char text[MAX_CONFIG + 1];
	const char *other = secure_getenv("NLMFO_CALLOUT_CONF"), *path = other ? other : CONFIG;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *line, *rest = text;
	bool readable;

	if (fd < 0 && errno == ENOENT)
		return false;	/* nothing to fail over on this machine */
	readable = read_file(fd, text, MAX_CONFIG) >= 0;
	while ((line = strsep(&rest, "\n")) && n_targets < MAX_TARGETS)
		configure(line, mounted);
	spool = open(spool_path, DIRECTORY);
	if (!readable)
		refuse("unreadable", path);
	return readable;
}

static bool is_ours(const char *address)
{
	for (int i = 0; i < n_targets; i++)
		if (!strcmp(targets[i].address, address))
			return true;
	return false;
}

/* rpc.mountd runs us as root: go on as the user whose directories these are. */
static bool drop_root(void)
{
	struct stat owner;

	if (geteuid() || fstat(spool, &owner) || !owner.st_uid)
		return true;
	return !setgroups(0, NULL) && !setgid(owner.st_gid) && !setuid(owner.st_uid);
}

/* statd's sockets are among what we inherit, and whoever reads its output must not wait for our children. */
static void let_go(void)
{
	int null = open("/dev/null", O_RDWR);

	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	closefrom(3);
}

int main(int argc, char **argv)
{
	bool mounting = argc > 3 && !strcmp(argv[1], "mount");
	const char *server = "127.0.0.1";

	let_go();
	if (argc < 4 || (!mounting && strcmp(argv[1], "add-client") && strcmp(argv[1], "del-client")))
		return 0;
	umask(027);
	if (!read_config(mounting ? argv[3] : NULL) || !drop_root())
		return 0;
	client = argv[2];
	if (!mounting)
		server = argv[3];
	if (!mounting && is_ours(client) && strcmp(server, node)) {	/* SERVER CLIENT [FSID] */
		server = argv[2];
		client = argv[3];
		for (int i = 0; argc > 4 && i < n_targets; i++)
			learn(&targets[i], argv[4]);
	}
	if (is_safe(client))
		handle(argv[1], server);
	else
		refuse(argv[1], client);
	return 0;
}
