// Package pglocal runs a private PostgreSQL server for one user of one machine,
// from the server programs that the machine already has.
//
// # Home
//
// A cluster lives in one folder, its home:
//
//	control.lock   held by the process that is making, starting or stopping the server
//	users.lock     held, shared, by every process that uses the server
//	data/          the cluster itself (PGDATA)
//	data.new-*     a cluster being made; renamed to data/ when it is complete
//	run/           the folder of the server's Unix socket
//	server.conf    the server's settings, written before every start
//	server.log     the server's log since its last start; server.log.1 is the one before
//
// The server listens on its Unix socket alone, never on the network. Whoever
// can enter run/ is let in as the superuser "smpq" without a password, and
// only the owner of the home (and root) can: run/ has mode 0700. A home with a
// long name cannot hold a socket, whose path is limited to about a hundred
// bytes, nor can one with a comma in its name; then run is a symbolic link to a folder of mode 0700 in /tmp.
//
// # Sharing
//
// The first user starts the server, later ones join it, the last one to leave
// stops it. Nothing is counted: a user is a process that holds users.lock, and
// the last user is the one that can turn its shared lock into an exclusive one.
// The kernel drops the lock of a process that dies, however it dies, so a crash
// leaves at most a running server that the next user joins and later stops.
//
// Joining, starting and stopping happen under control.lock, one at a time.
// users.lock changes only under control.lock as well, hence neither a user
// can slip in while the server is being stopped, nor can two start it.
//
// The server outlives its starter: it has its own session, so that an
// interrupt typed in the terminal reaches smpq, which can then finish its work
// with the database, and not the database under it.
//
// # Root
//
// PostgreSQL refuses to run as root. When smpq does, the server's programs run
// as the user "postgres", else "nobody" (for an existing cluster: as its
// owner). The home then belongs to root and lets that user pass, nothing more;
// data/ and run/ belong to that user. All folders above the home must let the
// user pass, which the folders below /root usually do not.
//
// # Choices
//
// The encoding is UTF8 and the locale C: text compares byte by byte, in the
// same way on every machine and after every upgrade of the C library, so no
// index is ever silently out of order. Data checksums are on: nobody watches a
// private server, so a failing disk must not go unnoticed. fsync stays on. The
// write-ahead log is minimal, since there are no replicas: bulk loads into new
// tables need not be logged. ALTER SYSTEM overrides any setting of ours.
package pglocal
