# Only for the smoke test, on machines whose image of PostgreSQL is a stand-in that can only start as root. Gives it what the
# official image has: the user 999, who starts the server himself, and a data folder that is his.
ARG BASE
FROM ${BASE}
RUN usermod -u 999 postgres && groupmod -g 999 postgres \
    && install -d -o 999 -g 999 -m 1777 /var/lib/postgresql/data && install -d -o 999 -g 999 -m 3777 /run/postgresql
COPY postgres.sh /usr/local/bin/as-user-999
ENV PATH=/usr/lib/postgresql/15/bin:$PATH
STOPSIGNAL SIGINT
ENTRYPOINT ["bash", "/usr/local/bin/as-user-999"]
