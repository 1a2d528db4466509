interface Called {
  id: string;
  name?: string | undefined;
}

/** What people read: its name where it has one. */
export const calledText = ({ id, name }: Called): string => name ?? id;

/** Both, where it's about which of two. */
export const idText = ({ id, name }: Called): string => (name === undefined ? id : `${name} (${id})`);
