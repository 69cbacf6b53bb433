# Only for the smoke test, on machines whose image of Prometheus is a stand-in: gives its data folder to the user that the
# official image gives it to.
ARG BASE
FROM ${BASE}
RUN chown -R 65534:65534 /prometheus
