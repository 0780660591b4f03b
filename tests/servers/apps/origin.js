// Node's own http and https servers with the common resources of the fleet (fleet.py lists them):
// origin.js PORT TLS_PORT UNIX_SOCKET CERTIFICATE KEY. Also the origin behind the proxies of the fleet.
'use strict';

const fs = require('fs');
const http = require('http');
const https = require('https');

const [port, tlsPort, unixSocket, certificate, key] = process.argv.slice(2);
const SMALL = Buffer.from('hello from the fleet\n');
const ETAG = '"small-1"';
const PIECE = Buffer.alloc(65536);
let arrivals = 0;

function whole(response, status, data, headers) {
  response.writeHead(status, { 'content-length': data.length, ...headers });
  response.end(data);
}

function handle(request, response) {
  const path = request.url.split('?')[0];
  const big = /^\/big(-chunked)?\/([0-9]+)$/.exec(path);
  if (path === '/small' && request.headers['if-none-match'] === ETAG) {
    response.writeHead(304, { etag: ETAG });
    response.end();
  } else if (path === '/small') {
    whole(response, 200, SMALL, { etag: ETAG });
  } else if (path === '/nothing') {
    response.writeHead(204);
    response.end();
  } else if (path === '/moved') {
    whole(response, 302, 'moved', { location: '/small' });
  } else if (path === '/moved-post') {
    whole(response, 307, 'moved', { location: '/echo' });
  } else if (path === '/trailers') {
    response.writeHead(200, { trailer: 'x-checksum', 'transfer-encoding': 'chunked' });
    response.write('a body');
    response.addTrailers({ 'x-checksum': '6f2c' });
    response.end();
  } else if (path === '/limited') {
    whole(response, 413, 'too large', { connection: 'close' });
  } else if (path === '/arrival') {
    // The request's place in the order in which this process received them.
    whole(response, 200, String(arrivals++), {});
  } else if (path === '/arrival/reset') {
    arrivals = 0;
    whole(response, 200, 'ok', {});
  } else if (path === '/echo') {
    // Gathered first: many clients and proxies take an answer that begins early as the end of the request.
    const pieces = [];
    request.on('data', (data) => pieces.push(data));
    request.on('end', () => whole(response, 200, Buffer.concat(pieces), {}));
  } else if (path === '/sink') {
    let received = 0;
    request.on('data', (data) => { received += data.length; });
    request.on('end', () => whole(response, 200, String(received), {}));
  } else if (big) {
    let left = Number(big[2]);
    response.writeHead(200, big[1] ? {} : { 'content-length': left });
    const write = () => {
      while (left > 0) {
        const data = left < PIECE.length ? PIECE.subarray(0, left) : PIECE;
        left -= data.length;
        if (!response.write(data)) {
          response.once('drain', write);
          return;
        }
      }
      response.end();
    };
    write();
  } else {
    whole(response, 404, 'no such resource', {});
  }
}

function listen(server, ...where) {
  // Two seconds: clients take one off the "keep-alive: timeout=2" that Node says.
  server.keepAliveTimeout = 2000;
  server.requestTimeout = 0;
  server.listen(...where);
}

listen(http.createServer(handle), Number(port), '127.0.0.1', 4096);
listen(http.createServer(handle), unixSocket);
listen(https.createServer({ cert: fs.readFileSync(certificate), key: fs.readFileSync(key) }, handle), Number(tlsPort), '127.0.0.1');
