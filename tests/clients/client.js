// The client `etcd3` from npm against a member: client.js HOST:PORT
const assert = require('assert');
const { Etcd3 } = require('etcd3');

async function main() {
  const client = new Etcd3({ hosts: process.argv[2] });

  await client.put('a').value('1');
  assert.strictEqual(await client.get('a').string(), '1');

  const watcher = await client.watch().prefix('w').create();
  const seen = new Promise((resolve) => {
    const events = [];
    watcher.on('put', (pair) => events.push(`put ${pair.key}`));
    watcher.on('delete', (pair) => {
      events.push(`delete ${pair.key}`);
      resolve(events);
    });
  });
  await client.put('w1').value('x');
  await client.delete().key('w1');
  assert.deepStrictEqual(await seen, ['put w1', 'delete w1']);
  await watcher.cancel();

  const txn = await client
    .if('a', 'Value', '==', '1')
    .then(client.put('a').value('2'))
    .else(client.put('a').value('3'))
    .commit();
  assert.strictEqual(txn.succeeded, true);
  assert.strictEqual(await client.get('a').string(), '2');

  const lease = client.lease(60);
  await lease.put('leased').value('x');
  await lease.keepaliveOnce();
  assert.deepStrictEqual(await client.getAll().prefix('leased').keys(), ['leased']);
  await lease.revoke();
  assert.strictEqual(await client.get('leased').string(), null);

  await client.lock('l').do(async () => {
    assert.strictEqual((await client.getAll().prefix('l').keys()).length, 1);
  });

  const election = client.election('e');
  const campaign = election.campaign('me');
  await new Promise((resolve, reject) => {
    campaign.on('elected', resolve);
    campaign.on('error', reject);
  });
  assert.strictEqual(await election.leader(), 'me');
  await campaign.resign();

  const role = client.role('r');
  await role.create();
  await role.grant([{ permission: 'Readwrite', key: 'a' }]);
  assert.strictEqual((await role.permissions()).length, 1);
  await role.delete();

  const status = await client.maintenance.status();
  assert.ok(status.version.startsWith('3.'));
  client.close();
  console.log('ok');
}

main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
